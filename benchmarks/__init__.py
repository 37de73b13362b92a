"""Speed as ratios measured side by side in one process: `tox run -e perf`."""
