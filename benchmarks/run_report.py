"""A report on results that are there: tables with intervals, pictures, and what the papers printed beside it.

python benchmarks/run_report.py training/recipes/miniature/report.yaml
python benchmarks/run_report.py benchmarks/recipes/paper_table_2.yaml \\
    --models BAAI/AltCLIP openai/clip-vit-large-patch14
python benchmarks/run_report.py --results outputs/mine outputs/theirs \\
    --output_dir outputs/report --rows language --columns model
"""

from benchmarks.jobs.report import main
from benchmarks.report.selection import ReportArguments
from benchmarks.report.tables import TableArguments
from common.recipe import launch

if __name__ == "__main__":
    launch(main, ReportArguments, TableArguments, one_process=True)
