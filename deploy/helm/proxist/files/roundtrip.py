"""What `helm test` runs: creates a table, writes a row, reads it back, drops the table.

    python roundtrip.py grpc://query:8815

The token is PROXIST_TOKEN's, or one that is signed with the cluster's secret in PROXIST_CLUSTER_SECRET_FILE.
"""

import datetime
import os
import sys
import uuid

import proxist

TABLE = f"helm_test_{uuid.uuid4().hex[:12]}"
COLUMNS = {"ts": "timestamp[ns, tz=UTC]", "symbol": "string", "price": "double"}


def token() -> str | None:
    secret = os.environ.get("PROXIST_CLUSTER_SECRET_FILE")
    if not secret:
        return os.environ.get("PROXIST_TOKEN")
    from pathlib import Path

    from proxist.auth.cluster import ClusterSecret

    return ClusterSecret.read(Path(secret)).sign("helm-test")


def main() -> None:
    uri = sys.argv[1]
    wanted = {"ts": datetime.datetime.now(datetime.UTC), "symbol": "TEST", "price": 42.0}
    columns = [{"name": name, "type": kind} for name, kind in COLUMNS.items()]
    with proxist.connect(uri, token=token(), timeout_s=30) as connection:
        table = connection.create_table({"name": TABLE, "time": "ts", "key": "symbol", "columns": columns})
        try:
            ack = table.write([wanted])
            found = table.last_by(["TEST"]).to_pylist()
            if len(found) != 1 or found[0]["price"] != wanted["price"]:
                sys.exit(f"The row {wanted} was acknowledged ({ack.durability}) and reads back as {found}.")
        finally:
            table.drop()
    print(f"A row was written at level {ack.durability} and read back through {uri}.")


main()
