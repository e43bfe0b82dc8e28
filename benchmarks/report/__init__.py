"""Report on results: tables with intervals, plots, findings in words, and published numbers beside ours."""
