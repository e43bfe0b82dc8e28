"""The trainer of stage 1, teacher learning."""

import numpy as np
import torch
from torch.nn.functional import embedding, normalize
from torch.utils.data import Sampler

from ..data.images import EpochCallback
from ..data.sampling import ShareSampler, language_shares
from ..losses import REGRESSIONS, contrastive_loss, gather_rows
from ..teachers import space_of
from .base import AltCLIPTrainer
from .batches import by_length


class TeacherLearningTrainer(AltCLIPTrainer):
    """Trainer of stage 1, teacher learning (paper 3.1); only the texts' side of the model learns.

    Batches carry `target`, the teacher's embeddings `(texts, dim)`, see `training.teachers`. `args` are
    `TeacherLearningArguments`.

    Raises:
        InputError: the loss, a gradient or a weight is not finite, or a disk is full.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from benchmarks import load_model
    >>> from training import CaptionExamples, Collator, TeacherLearningArguments, TeacherLearningTrainer
    >>> from training import freeze_all_but, teacher_embeddings

    >>> name, data = "outputs/miniature/altclip", "outputs/miniature/dataset"
    >>> model, processor = load_model(name)
    >>> rows = load_dataset(data, split="validation")
    >>> target = teacher_embeddings(rows, model, processor.tokenizer)  # of the English captions
    >>> freeze_all_but(model, ["text_model"])
    >>> arguments = TeacherLearningArguments(
    ...     model_name_or_path=name, dataset=data, output_dir="outputs/stage1", max_steps=2
    ... )
    >>> trainer = TeacherLearningTrainer(
    ...     model=model,
    ...     args=arguments,
    ...     train_dataset=CaptionExamples(rows, ["en", "zh"], "target", inputs=target),
    ...     data_collator=Collator(processor.tokenizer, max_length=77),
    ... )
    >>> trainer.train().global_step
    {'train_runtime': ...}
    2
    ```
    """

    def _get_train_sampler(self, train_dataset=None) -> Sampler | None:
        examples = self.train_dataset
        args = self.args
        of_like_length = args.train_sampling_strategy == "group_by_length"
        as_they_are = args.temperature == 1 and examples.weights is None and not args.replay_languages
        if as_they_are and not of_like_length:
            return super()._get_train_sampler(train_dataset)

        # An example is a row and a column of captions; the column names the language.
        language_of_example = np.asarray(examples.columns)[examples.places[:, 1]]
        names, languages = np.unique(language_of_example, return_inverse=True)
        replayed = np.flatnonzero(np.isin(names, args.replay_languages or []))
        shares = language_shares(
            languages, examples.weights, temperature=args.temperature, replayed=replayed, replay=args.replay
        )
        lengths = examples.lengths(self.data_collator.tokenizer) if of_like_length else None
        sampler = ShareSampler(*shares, args.seed, lengths, args.train_batch_size * args.world_size)
        self.add_callback(EpochCallback(sampler))
        return sampler

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        groups, rows = by_length(inputs, self.length_groups)
        space = space_of(self.accelerator.unwrap_model(model).config)
        embeddings = torch.cat([space.of_student(model(**group)) for group in groups])
        # A text that several examples of the batch share is encoded once: `text_rows` points each example to
        # its text. Neither by brackets nor by index_select: the gradient of the one is summed in any order on
        # a CPU, of the other on a GPU, and equal seeds would give other weights.
        embeddings = embedding(rows[inputs["text_rows"]], embeddings).float()
        self.watch.see(inputs, groups, embeddings, inputs["target"])
        return self._compare(embeddings, inputs["target"].float(), inputs["row_ids"])

    def _compare(
        self, embeddings: torch.Tensor, targets: torch.Tensor, row_ids: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss of the student's embeddings and their targets, each `(texts, dim)`.

        Args:
            row_ids: `(texts,)`; texts of equal ids have the same English.
        """
        if self.args.objective != "contrastive":
            return REGRESSIONS[self.args.objective](embeddings, targets)
        # The targets stand where images do in stage 2: each text chooses its own among those of all texts.
        return contrastive_loss(
            gather_rows(normalize(targets, dim=-1)),
            gather_rows(normalize(embeddings, dim=-1)),
            targets.new_tensor(self.args.contrast_scale),
            image_ids=gather_rows(row_ids),
        )
