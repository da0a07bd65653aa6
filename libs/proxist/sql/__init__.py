"""SQL of the ClickHouse dialect: what it reads, what it may not do, and how it is made exact over two tiers.

In comes the text of a SELECT (or EXPLAIN SELECT) and the tables that it may name; out comes a `Prepared`: which tables
and columns it needs, the bounds on time and key that it provably keeps, and its text with a hole for each table, to be
filled with a relation of either plan. Pure text and trees: nothing is executed in here.
"""

from proxist.sql.bounds import Bounds
from proxist.sql.prepare import Prepared, TableUse, prepare

__all__ = ["Bounds", "Prepared", "TableUse", "prepare"]
