"""A report on results that are there: tables with intervals, pictures, and what the papers printed beside it.

python benchmarks/run_report.py training/recipes/miniature/report.yaml
python benchmarks/run_report.py benchmarks/recipes/paper_table_2.yaml \\
    --models BAAI/AltCLIP openai/clip-vit-large-patch14
python benchmarks/run_report.py --results outputs/mine outputs/theirs \\
    --output_dir outputs/report --rows language --columns model
"""

from common.launching import launch

if __name__ == "__main__":
    launch("benchmarks.jobs.report", one_process=True)
