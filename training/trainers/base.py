"""The base of all trainers; data, logging, precision and resuming are `transformers.Trainer`'s own."""

import shutil
from contextlib import nullcontext
from pathlib import Path

import torch
from huggingface_hub import CommitInfo
from torch import nn
from torch.distributed.fsdp import register_fsdp_forward_method
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, TrainOutput, rotate_checkpoints
from transformers.training_args import ParallelMode
from transformers.utils.hub import hf_api

from common.errors import InputError
from modeling_altclip.checkpoint_altclip import match_modes
from modeling_altclip.checksums_altclip import CHECKSUMS, check_files, write_checksums
from modeling_altclip.reading_altclip import text_reading
from modeling_altclip.tokenizer_files_altclip import restore_files

from ..adapter_output import save_adapter
from ..checkpoints import mark_finished, mark_unfinished
from ..embedding_gradients import gradients_by_row
from ..monitoring import FiniteSteps, Watch, check_all_finite, check_scaler
from ..output_folder import bytes_of_checkpoint, bytes_of_model, saving, without_local_files
from ..own_text_tower import let_encode_texts_alone
from ..sharding import make_shardable, set_scalars_apart, whole
from ..validation import Validation

# Groups of texts by default, and the fewest rows of a batch for each. More would save little padding, and
# each costs a gradient of the size of the vocabulary. All processes have to run the model equally often, so
# that a batch's texts themselves cannot decide.
_LENGTH_GROUPS = 4
_ROWS_OF_GROUP = 4


class AltCLIPTrainer(Trainer):
    """The base of all stages' trainers.

    Losses are means over the batch, only matrices are decayed, and training health metrics are logged with
    the loss.
    """

    def __init__(self, *args, validation: Validation | None = None, **kwargs):
        captioned = None if validation is None else validation.captioned
        super().__init__(*args, eval_dataset=captioned, **kwargs)
        let_encode_texts_alone(self.model)
        self.watch = Watch()
        self.finite_steps = FiniteSteps(self.args.device)
        self.validation = validation
        if self.is_fsdp_enabled:
            make_shardable(self.model, self.accelerator)
        if validation is not None:
            validation.begin(self.accelerator)

    def _prepare_for_training(self, *args, **kwargs):
        model, batches = super()._prepare_for_training(*args, **kwargs)
        # For `embed_frozen` and `Validation`; does nothing to models that FSDP does not shard.
        for name in ("get_image_features", "get_text_features"):
            register_fsdp_forward_method(model, name)
        self.finite_steps = FiniteSteps(self.args.device)
        # What a checkpoint holds has been loaded now.
        self.check_all_finite("at the beginning")
        return model, batches

    def train(self, *args, **kwargs) -> TrainOutput:
        # A GPU fills a table with zeros in no time, and several processes add up their gradients whole.
        is_alone = self.args.parallel_mode == ParallelMode.NOT_PARALLEL and self.args.device.type == "cpu"
        sums_by_row = is_alone and not self.args.torch_compile
        with gradients_by_row(self.model) if sums_by_row else nullcontext():
            return super().train(*args, **kwargs)

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.finite_steps.note("loss", loss, self.state.global_step + 1)
        return loss

    def _get_grad_norm(self, *args, **kwargs) -> torch.Tensor | float | None:
        norm = super()._get_grad_norm(*args, **kwargs)
        # With fp16 the scaler tries scales that are too large, and skips these steps.
        if norm is not None and not self.args.fp16:
            # Under FSDP2 it may be sharded.
            self.finite_steps.note("gradient norm", whole(torch.as_tensor(norm)), self.state.global_step + 1)
        return norm

    @property
    def length_groups(self) -> int:
        """The number of groups of similar length in which the texts of a batch are encoded."""
        if self.args.length_groups is not None:
            return self.args.length_groups
        # Nothing is saved where all texts are padded to one length.
        if text_reading(self.accelerator.unwrap_model(self.model)).attends_to_padding:
            return 1
        # Each forward of a sharded model gathers all of its weights.
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return 1
        most = self.args.per_device_train_batch_size // _ROWS_OF_GROUP
        return max(1, min(_LENGTH_GROUPS, most))

    def check_all_finite(self, when: str) -> None:
        """Check every weight and every moment of the optimizer; see `monitoring.check_all_finite`."""
        check_all_finite(self.model, self.optimizer, when, self.accelerator)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        # All processes are here: at a log of the loss, and at the last one of a training.
        if "loss" in logs or "train_loss" in logs:
            self.finite_steps.check(self.accelerator)
            check_scaler(self.accelerator)
        if "loss" in logs:
            logs |= self.watch.report(self.state.global_step / max(1, self.state.max_steps))
        if "train_loss" in logs:
            self.check_all_finite("at the end")
        super().log(logs, *args, **kwargs)

    # The Trainer divides by the number of accumulation steps; left at None it can take our mean for a sum and
    # not divide.
    loss_is_scaled_for_ga = False

    def evaluate(
        self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Log `Validation.scores`; the Trainer can choose the best checkpoint by any of them.

        The loss of a batch would say little.
        """
        self.finite_steps.check(self.accelerator)
        metrics = {f"{metric_key_prefix}_{name}": score for name, score in self.scores().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def scores(self) -> dict[str, float]:
        return self.validation.scores(self.accelerator)

    def _save_checkpoint(self, model, trial) -> None:
        """Save a checkpoint, its checksums last, and only then delete older ones.

        A full disk ends the run with one line, and leaves no half of a checkpoint. Weights that are NaN or
        infinite end it as well, and are not saved.
        """
        folder = self._checkpoint_folder()
        limit = self.args.save_total_limit
        self.finite_steps.check(self.accelerator)
        n_bytes = bytes_of_checkpoint(self.model, self.args)
        with saving(folder.name, folder, n_bytes, is_checkpoint=True):
            if self.args.should_save:
                mark_unfinished(folder)
            self.args.save_total_limit = None  # else the Trainer would delete them first
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.args.save_total_limit = limit
            self.accelerator.wait_for_everyone()  # for the random states, and shards, of all processes
            if self.args.should_save:
                write_checksums(folder)
                mark_finished(folder)
        if self.args.should_save:
            if limit is not None:
                self._finish_current_push()  # an older checkpoint may be about to be uploaded still
            best = self.state.best_model_checkpoint
            rotate_checkpoints(self.args.output_dir, limit, best)

    def _save(self, output_dir=None, state_dict=None) -> None:
        """Save the model and its processor, and checksums unless more is to come, as in a checkpoint.

        With `lora_output="adapter"` an adapter takes the place of the model, but for checkpoints.
        """
        folder = Path(output_dir or self.args.output_dir)
        is_checkpoint = folder == self._checkpoint_folder()
        if self.args.saves_adapter and not is_checkpoint:
            if self.args.should_save:
                save_adapter(self.accelerator.unwrap_model(self.model), self.args, folder)
                self.processing_class.save_pretrained(folder)
                torch.save(self.args, folder / TRAINING_ARGS_NAME)
        else:
            super()._save(output_dir, state_dict)
        has_processor = self.processing_class is not None  # which diffusion has not
        if self.args.should_save and has_processor:
            # An `AltCLIPProcessor` does so by itself, and those of transformers write these files anew.
            restore_files(self.processing_class.tokenizer, folder)
        if self.args.should_save and not is_checkpoint:
            write_checksums(folder)

    def _checkpoint_folder(self) -> Path:
        """Return the folder of a checkpoint of this step; an `output_dir` may have such a name, too."""
        return Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint as a model that loads, also with `trust_remote_code=True`.

        The Trainer copies weights and configuration to `output_dir`, where checksums may be of other weights,
        and uploads that folder in the background. It leaves out the code that the configuration names.
        """
        pushes = self.args.should_save and self.args.hub_strategy != HubStrategy.END
        if pushes and self.args.hub_always_push:
            self._finish_current_push()  # or files would change while they are uploaded
        if pushes and (self.push_in_progress is None or self.push_in_progress.is_done()):
            Path(self.args.output_dir, CHECKSUMS).unlink(missing_ok=True)
            for path in Path(checkpoint_folder).glob("*.py"):
                shutil.copyfile(path, Path(self.args.output_dir, path.name))
        with without_local_files():
            super()._push_from_checkpoint(checkpoint_folder)

    def push_to_hub(self, *args, **kwargs) -> CommitInfo | None:
        """Push the model without what holds paths of this machine; processes but the first return None."""
        with without_local_files():
            return super().push_to_hub(*args, **kwargs)

    def push_saved(self) -> CommitInfo | None:
        """Push `output_dir` as it is, where a stage has saved its model by other means than `save_model`."""
        if not self.is_world_process_zero():
            return None
        self.create_model_card(model_name=self.hub_model_id.split("/")[-1])
        with without_local_files():
            return hf_api().upload_folder(
                repo_id=self.hub_model_id,
                folder_path=self.args.output_dir,
                commit_message="End of training",
                token=self.args.hub_token,
                ignore_patterns=["_*", f"{PREFIX_CHECKPOINT_DIR}-*"],
                revision=self.args.hub_revision,
            )

    def _load_best_model(self) -> None:
        """Load the best checkpoint, which is refused if it is damaged.

        Raises:
            InputError: a file of it is not as it was saved.
        """
        try:
            check_files(self.state.best_model_checkpoint)
        except ValueError as error:
            raise InputError(f"load_best_model_at_end: {error}") from error
        super()._load_best_model()

    def save_model(self, output_dir=None, _internal_call: bool = False) -> None:
        """Save the model; a full disk ends the run with one line, and so do NaN or infinite weights."""
        folder = Path(output_dir or self.args.output_dir)
        self.check_all_finite(f"before {folder.name} is saved")
        is_checkpoint = folder == self._checkpoint_folder()
        if not is_checkpoint:
            self._finish_current_push()  # which reads the files that are about to be replaced
        what = "the adapter" if self.args.saves_adapter else "the model"
        n_bytes = bytes_of_model(self.model, self.args)
        with saving(what, folder, n_bytes, is_checkpoint=is_checkpoint):
            super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            match_modes(folder)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of matrices: all but biases, norms, class embedding and temperature.

        Stock rules would decay the last two.
        """
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.is_fsdp_enabled:
            set_scalars_apart(optimizer)
        return optimizer

    def _run_epoch(self, *args, **kwargs) -> None:
        """Train an epoch, and nothing where a run resumes from the checkpoint of its last step.

        The Trainer sees only after a step whether that was the last: it would train one too many, with each
        resume, and save that model.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)
