"""The measures, one file each. A measure collects a few numbers per sample, and returns a record for the JSON.

A new one is a file, its row in ``checkpoint_probe`` and its name in ``probe_options.MEASURES``. A panel
(``probe_panels.PANELS``) and a row (``probe_table.ROWS``) show it.
"""
