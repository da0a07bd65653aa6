"""`python -m proxist.hot.warm`: compile every kernel into the cache directory, for `make setup` and image builds."""

from __future__ import annotations

import time


def main() -> None:
    """Print where the kernels are and how long they took."""
    began = time.monotonic()
    from proxist.hot import jit, kernels  # compiling is what the import does

    assert kernels is not None
    print(f"kernels ready in {jit.cache_dir()} after {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
