"""A trainer of another library with a number of steps of its own."""

from tempfile import TemporaryDirectory

from honest import Honest

from alignbench import Pair
from alignbench.integrations import callback


class Broken(Honest):
    """Goes on after its callback has stopped it. Source: none."""

    api = 2

    def train(self, run, policy):
        from transformers import Trainer, TrainerCallback, TrainingArguments

        class GoOn(TrainerCallback):
            def on_step_end(self, args, state, control, **_):
                control.should_training_stop = state.global_step >= 6

        rows = [[*row.prompt_ids, *row.chosen_ids] for row in run.rows(Pair)]
        width = max(map(len, rows))
        data = [
            {"input_ids": row + [0] * (width - len(row)), "labels": row + [-100] * (width - len(row))}
            for row in rows
        ]
        with TemporaryDirectory() as folder, run.borrow(policy) as (model, _):
            settings = TrainingArguments(
                folder,
                per_device_train_batch_size=8,
                max_steps=6,
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
            )
            Trainer(model, settings, train_dataset=data, callbacks=[callback(run), GoOn()]).train()
