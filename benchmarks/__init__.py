"""The figures, each beside the floor of the same run: `make bench`.

The machine's noise is up to 2x, so only figures of one run may be compared.
"""
