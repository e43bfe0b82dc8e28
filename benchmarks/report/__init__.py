"""From results to a report: tables with intervals, plots, findings in words, and the published numbers beside ours."""
