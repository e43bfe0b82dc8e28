"""From results to a report: tables with intervals, plots, findings, and published numbers beside ours."""
