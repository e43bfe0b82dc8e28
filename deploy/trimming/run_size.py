"""Show what trimming saves at AltCLIP's full size: XLM-R large and ViT-L/14, with random weights.

python deploy/trimming/run_size.py --tokenizer XLM_R --corpus en=en.txt fr=fr.txt --output_dir outputs/size
"""

from common.launching import launch

if __name__ == "__main__":
    launch("deploy.trimming.size_job", one_process=True)
