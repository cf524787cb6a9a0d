"""Comparisons: records enter, tables, tests, pictures and pages leave. No model in sight."""
