"""Settings: where they come from, which one wins, and a corpus of wrong ones with the message each gets."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from proxist import config
from proxist.config import ServiceConfig
from proxist.errors import ConfigError
from proxist.rpc import tls
from proxist.rpc.ports import UNIX_PATH_BYTES_MAX
from proxist.rpc.run_dir import prepare_run_dir

NAME = ["--name", "ingest-0"]


class Special(ServiceConfig):
    """A service's own class."""

    hot_path: str = "auto"


def load(argv: list[str], env: dict[str, str] | None = None, cls: type[ServiceConfig] = ServiceConfig) -> ServiceConfig:
    return config.load(cls, argv, env=env or {})


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: from-file\ngrpc_port: 1\nhttp_port: 1\nflight_port: 1\n")
    env = {"PROXIST_CONFIG": str(file), "PROXIST_GRPC_PORT": "2", "PROXIST_HTTP_PORT": "2"}
    got = config.load(ServiceConfig, ["--http-port", "3"], env=env, defaults={"name": "d", "lease_ttl_s": 4})
    assert (got.name, got.flight_port, got.grpc_port, got.http_port, got.lease_ttl_s) == ("from-file", 1, 2, 3, 4)


def test_a_service_adds_settings_of_its_own() -> None:
    got = load([*NAME, "--hot-path=flight"], cls=Special)
    assert isinstance(got, Special)
    assert got.hot_path == "flight"


def test_a_switch_needs_no_value() -> None:
    assert load([*NAME, "--insecure", "--host", "0.0.0.0"]).insecure
    assert load([*NAME, "--insecure", "true"]).insecure
    assert not load([*NAME, "--insecure=false"]).insecure


def test_endpoints_are_a_list_and_sockets_are_in_the_run_dir() -> None:
    got = load([*NAME, "--etcd", "a:1, b:2", "--run-dir", "/run/p"])
    assert got.etcd_endpoints == ["a:1", "b:2"]
    assert got.flight_socket == Path("/run/p/ingest-0.flight")
    assert got.attach_socket == Path("/run/p/ingest-0.attach")


TLS = ["--tls-cert", "c", "--tls-key", "k", "--tls-ca", "a"]
TOKENS = ["--auth", "tokens", "--cluster-secret-file", "s"]
FAR = ["--etcd", "https://a:2379", "--clickhouse", "https://b:8443"]


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--etcd", "etcd-0:2379", "--clickhouse", "http://proxist:pw@store:8123", *TLS], ["etcd", "clickhouse"]),
        (["--etcd", "etcd-0:2379", "--clickhouse", "https://store:8443", *TOKENS], ["etcd"]),
        (["--etcd", "127.0.0.1:2379,http://10.0.0.1:2379", *TLS, *TOKENS], ["etcd"]),
        (["--etcd", "localhost:2379,[::1]:2379", "--clickhouse", "http://u:p@[::1]:8123/db", *TLS], []),
        ([*FAR, *TLS, *TOKENS], []),
        (["--etcd", "etcd-0:2379", "--clickhouse", "http://store:8123"], []),
        (["--etcd", "etcd-0:2379", "--clickhouse", "http://store:8123", *TLS, "--insecure"], []),
    ],
)
def test_stores_of_other_machines_in_clear_are_warned_of_under_tls_or_tokens(argv: list[str], named: list[str]) -> None:
    said = load([*NAME, *argv]).warnings()
    assert [sentence.split("`")[1] for sentence in said] == named
    assert all("https://" in sentence and "pw" not in sentence for sentence in said)


@pytest.mark.parametrize(("mode", "named"), [(0o644, ["tls_key", "cluster_secret_file"]), (0o440, []), (0o400, [])])
def test_secret_files_that_everybody_may_read_are_warned_of(tmp_path: Path, mode: int, named: list[str]) -> None:
    file = tmp_path / "secret"
    file.touch(mode=mode)
    file.chmod(mode)
    argv = ["--tls-cert", "c", "--tls-ca", "a", "--tls-key", str(file), "--auth", "tokens"]
    said = load([*NAME, *FAR, *argv, "--cluster-secret-file", str(file)]).warnings()
    assert [sentence.split("`")[1] for sentence in said] == named


NO_TLS = "without TLS (set `tls_cert`, `tls_key` and `tls_ca`)"
NO_TOKENS = "without tokens (set `auth: tokens` and `cluster_secret_file`)"


@pytest.mark.parametrize(
    ("flags", "lacks"),
    [([], f"{NO_TLS} and {NO_TOKENS}"), (TLS, NO_TOKENS), (TOKENS, NO_TLS)],
    ids=["neither", "no tokens", "no TLS"],
)
def test_off_loopback_a_node_is_refused_without_tls_and_tokens(flags: list[str], lacks: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load([*NAME, "--host", "0.0.0.0", *flags])
    assert raised.value.message == (
        f"`host` is 0.0.0.0, which other machines can reach, {lacks}. Only loopback may be served that way. Set what is "
        "missing, listen on 127.0.0.1, or say `insecure: true` if the network is trusted."
    )
    assert load([*NAME, "--host", "0.0.0.0", *flags, "--insecure"]).insecure
    assert not load([*NAME, "--host", "127.0.0.1", *flags]).insecure


def test_off_loopback_a_node_with_tls_and_tokens_starts() -> None:
    assert not load([*NAME, "--host", "0.0.0.0", *TLS, *TOKENS]).insecure


def test_each_store_may_have_an_authority_of_its_own() -> None:
    own = load([*NAME, *TLS, "--etcd-ca", "e", "--clickhouse-ca", "h"])
    assert (tls.of(own).ca, tls.to_etcd(own).ca, tls.to_clickhouse(own).ca) == (Path("a"), Path("e"), Path("h"))
    shared = load([*NAME, *TLS])
    assert tls.of(shared) == tls.to_etcd(shared) == tls.to_clickhouse(shared)
    machine = load([*NAME, *TLS, "--clickhouse-ca", "system"])
    assert (tls.to_clickhouse(machine).ca, tls.to_etcd(machine).ca) == (None, Path("a"))


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(NAME).host = "::1"


def test_variables_of_programs_and_tests_are_no_settings() -> None:
    load(NAME, {"PROXIST_CONTROLPLANE": "x", "PROXIST_TEST_ETCD": "x", "PROXIST_ETCD_BINARY": "x", "OTHER": "x"})


WRONG_FLAGS = {
    "no name": ([], ["`name` is missing", "PROXIST_NAME"]),
    "bad name": (["--name", "Ingest 0"], ["`name` is 'Ingest 0'", "^[a-z]"]),
    "unknown flag": ([*NAME, "--nope", "1"], ["'--nope' is not a flag", "--flight-port"]),
    "no value": ([*NAME, "--etcd"], ["`--etcd` has no value"]),
    "port is text": ([*NAME, "--grpc-port", "x"], ["`grpc_port` is 'x'", "integer", "PROXIST_GRPC_PORT"]),
    "port too large": ([*NAME, "--grpc-port", "70000"], ["`grpc_port` is '70000'", "65535"]),
    "lease too short": ([*NAME, "--lease-ttl-s", "1"], ["`lease_ttl_s` is '1'", "greater than or equal to 2"]),
    "etcd without port": ([*NAME, "--etcd", "localhost"], ["`etcd` is 'localhost'", "must be host:port"]),
    "etcd empty": ([*NAME, "--etcd", ""], ["`etcd` is ''", "must be host:port"]),
    "clickhouse without scheme": ([*NAME, "--clickhouse", "localhost:8123"], ["`clickhouse` is", "http://"]),
    "log level": ([*NAME, "--log-level", "loud"], ["`log_level` is 'loud'", "'warning'"]),
    "etcd with and without TLS": (
        [*NAME, "--etcd", "https://a:1,b:2"],
        ["https:// before every endpoint or before none"],
    ),
    "etcd with another scheme": ([*NAME, "--etcd", "ftp://a:1"], ["`etcd` is 'ftp://a:1'", "must be host:port"]),
    "a certificate alone": ([*NAME, "--tls-cert", "c"], ["`tls_cert` is set without `tls_key` and `tls_ca`"]),
    "a key alone": ([*NAME, "--tls-key", "k"], ["`tls_key` is set without `tls_cert` and `tls_ca`"]),
    "a pair that trusts nobody": (
        [*NAME, "--tls-cert", "c", "--tls-key", "k"],
        ["`tls_cert` is set without `tls_ca`", "set `tls_cert`, `tls_key` and `tls_ca`"],
    ),
    "an authority alone": ([*NAME, "--tls-ca", "a"], ["`tls_ca` is set without `tls_cert` and `tls_key`", "`etcd_ca`"]),
    "certificates without TLS": (
        [*NAME, "--tls-clients", "certificate"],
        ["`tls_clients` is certificate, but the doors speak no TLS"],
    ),
    "another tls_clients": ([*NAME, "--tls-clients", "both"], ["`tls_clients` is 'both'", "'token' or 'certificate'"]),
    "no such file": ([*NAME, "--config", "nowhere.yaml"], ["nowhere.yaml cannot be read", "No such file"]),
}


@pytest.mark.parametrize("name", WRONG_FLAGS)
def test_a_wrong_flag_is_explained(name: str) -> None:
    argv, parts = WRONG_FLAGS[name]
    with pytest.raises(ConfigError) as raised:
        load(argv)
    for part in parts:
        assert part in raised.value.message


WRONG_FILES = {
    "unknown.bad.yaml": ("name: a\nnope: 1\n", "has the unknown setting 'nope'. Settings are name, host,"),
    "list.bad.yaml": ("- name\n", "must hold `setting: value` lines"),
    "broken.bad.yaml": ("name: [\n", "is not YAML"),
    "type.bad.yaml": ("name: a\ngrpc_port: many\n", "`grpc_port` is 'many'"),
    "two.bad.yaml": ("grpc_port: many\nlease_ttl_s: 0\nname: a\n", "`lease_ttl_s` is 0"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_wrong_file_is_explained(name: str, tmp_path: Path) -> None:
    text, message = WRONG_FILES[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(["--config", str(tmp_path / name)])
    assert message in raised.value.message


@pytest.mark.parametrize(
    "text",
    [
        "clickhouse: me:canary-4711@h:8123\n",
        "clickhouse: ftp://me:canary/4711@h\n",
        "clickhouse: [http://me:canary-4711@h]\n",
        "etcd: me:canary-4711@h\n",
        "clickhouse: http://me:canary-4711@h: 8123\n",  # no YAML
        "clickhouse: {url: http://me:canary-4711@h\n",
    ],
)
def test_no_password_of_an_address_stands_in_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"name: a\n{text}")
    with pytest.raises(ConfigError, match=r"`clickhouse` is|`etcd` is|is not YAML in line [23]: ") as raised:
        load(["--config", str(tmp_path / "c.yaml")])
    assert "4711" not in raised.value.message


def test_no_password_of_an_address_that_lacks_its_flag_stands_in_an_error() -> None:
    with pytest.raises(ConfigError, match="'http://\\*\\*\\*@h:8123' is not a flag"):
        load([*NAME, "http://me:canary-4711@h:8123"])


def test_printed_settings_leave_out_the_address_with_the_password() -> None:
    assert "4711" not in repr(load([*NAME, "--clickhouse", "http://me:canary-4711@h:8123"]))


def test_an_unknown_variable_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"PROXIST_GRPC_PROT is no setting of this service.*PROXIST_GRPC_PORT"):
        load(NAME, {"PROXIST_GRPC_PROT": "1"})


def test_the_usage_names_every_setting() -> None:
    text = config.usage(Special)
    for name in Special.model_fields:
        assert f"--{name.replace('_', '-')} (PROXIST_{name.upper()})" in text


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("[::1]", True), ("0.0.0.0", False), ("example", False)],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert config.is_loopback(host) is loopback


def test_the_default_run_dir_is_short_and_of_its_data_dir_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/" + "t" * 200)
    deep = tmp_path / ("d" * 200)
    socket = load([*NAME, "--data-dir", str(deep)]).attach_socket
    assert len(str(socket).encode()) <= UNIX_PATH_BYTES_MAX
    assert config.default_run_dir(deep) != config.default_run_dir(tmp_path)
    assert config.default_run_dir(deep) == config.default_run_dir(deep / "x" / "..")


def test_a_run_dir_is_private(tmp_path: Path) -> None:
    made = prepare_run_dir(tmp_path, tmp_path / "run")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert prepare_run_dir(tmp_path, tmp_path / "run") == made


def test_every_level_that_is_made_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that starts alone makes the same default directory as `proxist up`."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(config, "_TEMP_BYTES_MAX", 1_000)
    alone = prepare_run_dir(tmp_path, load([*NAME, "--data-dir", str(tmp_path)]).run_dir)
    assert alone == prepare_run_dir(tmp_path)
    assert stat.S_IMODE(alone.parent.stat().st_mode) == 0o700
    deep = prepare_run_dir(tmp_path, tmp_path / "a" / "b")
    assert stat.S_IMODE(deep.parent.stat().st_mode) == 0o700


def test_a_run_dir_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o755)
    with pytest.raises(ConfigError, match="mode 0700"):
        prepare_run_dir(tmp_path, tmp_path / "run")


def test_a_run_dir_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigError, match="Remove it"):
        prepare_run_dir(tmp_path, tmp_path / "run")
