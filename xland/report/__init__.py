"""The report: scores, charts and maps on one page."""
