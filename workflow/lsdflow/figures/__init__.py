"""Every plot, table and page of the report: functions take tables, arrays and plain values, and return figures."""
