PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints.txt

# Once installed, everything runs without a network and keeps its caches inside the clone.
export HF_HUB_OFFLINE := 1
export HF_DATASETS_CACHE := $(CURDIR)/outputs/cache
export OMP_NUM_THREADS ?= $(shell getconf _NPROCESSORS_ONLN)

ZERO_SHOT := paper-table-1 paper-imagenet-languages paper-icinw paper-clip-benchmark
RETRIEVAL := paper-table-2 paper-table-3 paper-multi30k
PAPER := $(ZERO_SHOT) $(RETRIEVAL) paper-table-4

.PHONY: demo photographs photographs-full ablation families add-languages own-pictures parallel space test-space download-env data-dry-run gpu-check bench-peers bench-growth docs licences bom audit test test-slow soak fuzz hostile coverage mutants test-upstream test-lowest test-python test-only style install release flags world-table $(PAPER)

# Repeated after a kill it goes on, and does nothing where all is done.
demo: $(VENV)/installed  ## train and evaluate the miniature: data, three stages, evaluation, model card
	$(BIN)/python -m training.miniature --output_dir outputs/miniature
	$(BIN)/python -m altclip train training/recipes/miniature
	@echo "Next: search scenes by a text in any of the 19 languages, or classify a picture by names in one of them:"
	@echo '  $(BIN)/python examples/search.py "선인장 및 풍선"'
	@echo '  $(BIN)/python examples/classify.py outputs/miniature/altclip/example.png --labels 红苹果 钥匙 狗脸 --language zh'

# Without a network, or where a registry has dropped a version: MIRRORS="FOLDER https://..." have the packages' files.
PHOTOGRAPHS_PARTS = $(BIN)/python -m training.photographs $(if $(MIRRORS),--mirrors $(MIRRORS))
PHOTOGRAPHS_CLEAN = $(BIN)/python training/run_clean.py training/recipes/photographs/clean.yaml
PHOTOGRAPHS = $(BIN)/python training/run_photographs.py training/recipes/photographs/experiment.yaml

# Repeated after a kill both go on, and do nothing where all is done.
photographs: outputs/photographs/cleaned/report.md  ## show the recipe on real pictures, encoders and texts: 36 languages, one seed, under an hour
	$(PHOTOGRAPHS)
	$(BIN)/python -m model_cards training/recipes/photographs/card.yaml
	$(BIN)/python benchmarks/run_report.py training/recipes/photographs/report.yaml

photographs-full: outputs/photographs/cleaned/report.md  ## the same with three seeds, curves and ablations; it prints how many hours that takes
	$(PHOTOGRAPHS) --full

# The environment has to be there, but a newer one makes nothing anew: cleaning refuses a folder that is full.
outputs/photographs/cleaned/report.md: | $(VENV)/installed
	$(PHOTOGRAPHS_PARTS)
	$(PHOTOGRAPHS_CLEAN)

ablation: outputs/miniature/altclip/README.md  ## run the paper's ablation (Table 4) on the miniature: five ways to train, three seeds each
	$(BIN)/python training/run_ablation.py training/recipes/ablation/miniature.yaml

families: outputs/miniature/altclip/README.md  ## train students of three families by a CLIP-like and a SigLIP-like teacher, and test what they lose
	$(BIN)/python training/run_families.py training/recipes/families/miniature.yaml

NINE := en zh es fr ru ar ja ko it

add-languages: outputs/miniature/altclip/README.md  ## train a model of nine languages, then add four more from parallel text alone
	$(BIN)/python -m training.miniature --text_encoder_only --languages $(NINE) --vocab_size 1300 --output_dir outputs/add_languages
	$(BIN)/accelerate launch --quiet training/run_stage1.py training/recipes/miniature/stage1.yaml --languages $(NINE) \
		--text_encoder_name_or_path outputs/add_languages/text_encoder --output_dir outputs/add_languages/stage1
	$(BIN)/accelerate launch --quiet training/run_stage2.py training/recipes/miniature/stage2.yaml --languages $(NINE) \
		--model_name_or_path outputs/add_languages/stage1 --output_dir outputs/add_languages/nine
	$(BIN)/accelerate launch --quiet training/run_stage1.py training/recipes/add_languages_miniature/stage1.yaml
	$(BIN)/python benchmarks/run_retrieval.py benchmarks/recipes/add_languages_retrieval.yaml
	$(BIN)/python benchmarks/run_zero_shot.py benchmarks/recipes/add_languages_zero_shot.yaml

own-pictures: outputs/miniature/altclip/README.md  ## fine-tune the finished miniature on 400 images of another style, and evaluate gains and forgetting
	$(BIN)/python -m training.miniature.own_pictures
	$(BIN)/accelerate launch --quiet training/run_stage2.py training/recipes/own_pictures/miniature.yaml
	$(BIN)/python benchmarks/run_retrieval.py benchmarks/recipes/own_pictures.yaml
	$(BIN)/python benchmarks/run_report.py benchmarks/recipes/own_pictures_report.yaml

parallel: outputs/miniature/altclip/README.md  ## compare training with English captions alone and with parallel captions, three seeds each
	$(BIN)/accelerate launch --quiet training/run_text_pretraining.py training/recipes/parallel/text_miniature.yaml
	$(BIN)/python training/run_parallel_experiment.py training/recipes/parallel/experiment_miniature.yaml

PAGE = $(BIN)/pip install --disable-pip-version-check --quiet --constraint $(CONSTRAINTS) --editable

space: outputs/miniature/index/index.json  ## serve the demo page of the miniature, and write it as a Space in outputs/space
	$(PAGE) ".[page]"
	rm -rf outputs/space
	$(BIN)/python -m altclip page deploy/page/miniature.yaml --space_dir outputs/space
	$(BIN)/python -m altclip page deploy/page/miniature.yaml

test-space: outputs/miniature/index/index.json  ## open that Space in Chromium and use it; screenshots are in outputs/page
	$(PAGE) ".[page,browser]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser tests/test_page_in_browser.py $(FLAGS)

outputs/miniature/index/index.json: outputs/miniature/altclip/README.md
	rm -rf outputs/miniature/index  # that of another model would be refused
	$(BIN)/python -m altclip index outputs/miniature/dataset --split test_pairs \
		--model_name_or_path outputs/miniature/altclip --output_dir outputs/miniature/index

# img2dataset pins older libraries than training needs, and so has an environment of its own.
download-env: .venv-download/installed  ## create the environment that training/run_download.py downloads pictures with

.venv-download/installed: constraints-download.txt
	$(PYTHON) -m venv .venv-download
	.venv-download/bin/pip install --disable-pip-version-check --quiet --constraint constraints-download.txt img2dataset==1.47.0
	touch $@

# ROADS="any_clip altclip" names some of them.
data-dry-run: $(VENV)/installed  ## plan all roads, from public data to a trained model, and run their trainings dry, without a network
	$(BIN)/python -W ignore -m tests.data_dry_run $(ROADS)

flags: $(VENV)/installed  ## write the table of all flags, by which a wrong one is refused at once: after a change of arguments
	$(BIN)/python -W ignore -m tests.write_flags

# Without a GPU it ends with status 2; FLAGS="--device cpu --shapes tiny" tries it on a CPU. FLAGS="--checks altclip-*" does some of it.
gpu-check: $(VENV)/installed  ## check a GPU: steps of stages 1 and 2 at full shapes, parity, throughput and memory, as a table
	$(BIN)/python -W ignore -m training.gpu_check $(FLAGS)

# These need data from the Hub: make paper-table-2 MODEL=BAAI/AltCLIP. FLAGS=--dry_run prints what would be loaded, and loads nothing.
RECIPE = $(if $(MODEL),benchmarks/recipes/$(subst -,_,$@).yaml,$(error name a model: make $@ MODEL=BAAI/AltCLIP)) --models $(MODEL)

$(PAPER): export HF_HUB_OFFLINE := 0

$(ZERO_SHOT): $(VENV)/installed  ## evaluate zero-shot classification as in the papers' tables: make paper-table-1 MODEL=BAAI/AltCLIP
	$(BIN)/python benchmarks/run_zero_shot.py $(RECIPE) $(FLAGS)

$(RETRIEVAL): $(VENV)/installed  ## evaluate retrieval as in the papers' tables: make paper-table-2 MODEL=BAAI/AltCLIP
	$(BIN)/python benchmarks/run_retrieval.py $(RECIPE) $(FLAGS)

paper-table-4: $(VENV)/installed  ## evaluate retrieval and classification as in the paper's ablation: make paper-table-4 MODEL=FOLDER
	$(BIN)/python benchmarks/run_retrieval.py $(RECIPE) --tasks flickr30k flickr30k-cn $(FLAGS)
	$(BIN)/python benchmarks/run_zero_shot.py $(RECIPE) --tasks imagenet $(FLAGS)

# MODELS="BAAI/AltCLIP-m9 FOLDER" names others than the recipe's. FLAGS=--dry_run loads nothing, and then there is no report.
WORLD_MODELS = $(if $(MODELS),--models $(MODELS))
WORLD_REPORTS = $(if $(findstring --dry_run,$(FLAGS)),,world_table_report world_table_nine_report world_table_pool_report)

world-table: export HF_HUB_OFFLINE := 0

world-table: $(VENV)/installed  ## evaluate today's multilingual models on XM3600, xFlickrCO and WIT, next to what others published
	$(BIN)/python benchmarks/run_retrieval.py benchmarks/recipes/world_table.yaml $(WORLD_MODELS) $(FLAGS)
	set -e; for report in $(WORLD_REPORTS); do $(BIN)/python benchmarks/run_report.py benchmarks/recipes/$$report.yaml $(WORLD_MODELS); done

# FLAGS=--quick is a look at small sizes; FLAGS="--rows texts loss" takes some of the rows, --threads 2 more threads.
bench-peers: .venv-bench/installed  ## compare our speed and memory with those of other libraries on equal work: outputs/speed
	.venv-bench/bin/python benchmarks/run_speed.py $(FLAGS)

bench-growth: $(VENV)/installed  ## fit how our costs grow with batch, texts, images, languages, vocabulary and pairs: outputs/speed
	$(BIN)/python benchmarks/run_growth.py $(FLAGS)

# open_clip, timm and CLIP_benchmark ask for torchvision. It is built for CUDA, and transformers would use it on all sides:
# it lies in a folder that only those peers see, see benchmarks/speed/worker.py.
BENCH = .venv-bench/bin/pip install --disable-pip-version-check --quiet --constraint constraints-bench.txt

.venv-bench/installed: setup.cfg pyproject.toml $(CONSTRAINTS) constraints-bench.txt
	$(PYTHON) -m venv .venv-bench
	$(BENCH) --editable ".[plots]" sentence-transformers mteb onnxruntime ftfy
	$(BENCH) --no-deps open_clip_torch timm clip-benchmark
	$(BENCH) --no-deps --upgrade --target .venv-bench/torchvision torchvision
	touch $@

outputs/miniature/altclip/README.md:
	$(MAKE) demo

# Two test files run at a time, with one thread each: most tests wait for a script to be imported.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --durations 25 \
	-o faulthandler_timeout=1800 -o faulthandler_exit_on_timeout=true

test: $(VENV)/installed  ## check the style and run the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PYTEST)

test-slow: $(VENV)/installed  ## run the tests that take minutes: the whole miniature, its minimum scores and its determinism
	$(BIN)/python -m pytest -m slow

# FLAGS="-k outcomes" runs some of them; ALTCLIP_FUZZ_EXAMPLES=20000 draws more inputs.
soak: $(VENV)/installed  ## kill every job that writes hundreds of times, damage files, fill disks, draw thousands of hostile inputs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak $(FLAGS)

hostile: $(VENV)/installed  ## print what becomes of hostile inputs, a row for each kind, and write it to outputs/hostile.md
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.hostile $(FLAGS)

# FLAGS="recipe names --n_runs 50000" gives these two more.
fuzz: $(VENV)/installed  ## draw hostile inputs as atheris does, led by the lines that they reach (Linux, Python up to 3.13)
	$(BIN)/pip install --disable-pip-version-check --quiet --constraint $(CONSTRAINTS) --editable ".[fuzz]"
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.run_atheris $(FLAGS)

coverage: $(VENV)/installed  ## measure which lines the tests run, in all processes that they start
	mkdir -p outputs/coverage
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest $(FLAGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --sort cover

mutants: $(VENV)/installed  ## change 400 places of losses, metrics, caches and checkpoints, one at a time, and see tests fail
	$(BIN)/pip install --disable-pip-version-check --quiet --constraint $(CONSTRAINTS) --editable ".[mutants]"
	$(BIN)/python tests/mutants/run_mutants.py $(FLAGS)

# FLAGS=--sdist=FILE uses transformers' sdist that is already downloaded; other flags are passed to pytest.
test-upstream: $(VENV)/installed  ## run transformers' own common tests on our models
	OMP_NUM_THREADS=1 $(BIN)/python tests/upstream/run_upstream.py $(FLAGS)

# These use environments of their own, next to .venv.
test-lowest:  ## run the tests with the lowest versions that setup.cfg allows
	$(MAKE) test-only VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt

test-python:  ## run the tests with another interpreter: make test-python PYTHON=python3.12
	@echo "$(PYTHON) gets an environment of its own, .venv-$(notdir $(PYTHON))."
	@echo "Missing packages are downloaded now. PyPI's torch for Linux is the CUDA build, 3 GB with its libraries."
	$(MAKE) test-only VENV=.venv-$(notdir $(PYTHON))

test-only: $(VENV)/installed
	$(PYTEST)

style: $(VENV)/installed  ## format the code and apply automatic fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed  ## build the site of docs/ in outputs/site
	$(BIN)/pip install --disable-pip-version-check --quiet --constraint $(CONSTRAINTS) --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Built the site. Next: open outputs/site/index.html"

SECURITY = $(BIN)/pip install --disable-pip-version-check --quiet --constraint $(CONSTRAINTS) --editable ".[security]"

licences: $(VENV)/installed  ## list the licences of all installed packages in outputs/licences.md
	$(SECURITY)
	mkdir -p outputs
	$(BIN)/pip-licenses --format=markdown --with-urls --output-file=outputs/licences.md

bom: $(VENV)/installed  ## write the bill of materials of all installed packages to outputs/bom.json (CycloneDX)
	$(SECURITY)
	mkdir -p outputs
	$(BIN)/cyclonedx-py environment --output-reproducible --output-file outputs/bom.json
	@echo "Wrote outputs/bom.json"

# The list has no local versions (torch 2.13.0+cpu), which PyPI does not know. Only an answer about every package ends in success.
audit: $(VENV)/installed  ## ask PyPI for known vulnerabilities of all installed packages; fails without an answer
	$(SECURITY)
	mkdir -p outputs
	$(BIN)/pip freeze --exclude-editable | sed 's/+.*//' > outputs/audited.txt
	@test -s outputs/audited.txt || { echo "audit: pip lists no packages: remove $(VENV) and run make install" >&2; exit 1; }
	@$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement outputs/audited.txt || { \
		echo "audit: failed: a package has a known vulnerability, or PyPI gave no answer about it: see above" >&2; exit 1; }

VERSION = $(shell sed -n 's/^version = //p' setup.cfg)
# "## 0.2.0 (2026-12-01)" -> 0.2.0
NEWEST = $(shell sed -n 's/^## \([^ ]*\).*/\1/p' CHANGELOG.md | head -n 1)
CITED = $(shell sed -n 's/^version: //p' CITATION.cff)

# The tests are not run again: `make test test-slow test-lowest` belongs before it.
release: $(VENV)/installed  ## build sdist and wheel in dist/, check them and tag the commit; publish nothing
	@test -z "$$(git status --porcelain)" || { echo "release: there are changes: commit them, or stash them" >&2; exit 1; }
	@test "$(NEWEST)" = "$(VERSION)" || { echo "release: setup.cfg has version $(VERSION), and CHANGELOG.md begins with $(NEWEST): make them equal" >&2; exit 1; }
	@test "$(CITED)" = "$(VERSION)" || { echo "release: setup.cfg has version $(VERSION), and CITATION.cff $(CITED): make them equal" >&2; exit 1; }
	@! git rev-parse --quiet --verify refs/tags/v$(VERSION) >/dev/null || { echo "release: the tag v$(VERSION) is there already: raise the version" >&2; exit 1; }
	$(BIN)/pip install --disable-pip-version-check --quiet --constraint $(CONSTRAINTS) --editable ".[release]"
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	git tag --annotate v$(VERSION) --message "Version $(VERSION)"
	@! grep -q REPOSITORY setup.cfg || echo "setup.cfg still has REPOSITORY where the repository's address belongs: PyPI shows it as it is."
	@echo "Built dist/ and tagged v$(VERSION); nothing is published. Next: git push origin v$(VERSION) && $(BIN)/twine upload dist/*"

install: $(VENV)/installed  ## create the environment only

$(VENV)/installed: setup.cfg pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --quiet --constraint $(CONSTRAINTS) --editable ".[dev]"
	$(BIN)/pip install --disable-pip-version-check --quiet --no-deps clip-benchmark==1.6.2  # the reference for metrics; its dependencies include torchvision
	touch $@
