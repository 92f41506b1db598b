"""Results as tables: rows, columns, statistics, comparison, formats."""
