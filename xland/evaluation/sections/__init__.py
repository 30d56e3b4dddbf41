"""The sections of a report, one module each: from numbers to tables, charts and maps with words."""
