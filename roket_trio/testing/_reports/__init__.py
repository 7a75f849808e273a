"""Results as JSON lines, a table, a page, JUnit."""
