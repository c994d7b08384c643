"""Trains the judge: it names what is on toybox pictures, and compares pictures with captions.

    python -m experiments.draw_bank --folder outputs/bank
    python -m experiments.draw_bank --folder outputs/bank-unseen --chunks 1 --seed 3
    python -m experiments.train_judge

It sees ground-truth renders only, of every category in every colour with and without modifiers
(those that the prior never sees among them), blurred, noisy and tinted a little, so that it
judges the softer objects of score distillation fairly. Empty pictures, shuffled ones and eggs
teach it to say "something else". Beside naming, it learns which captions are true of a picture
(every pair of a batch is a yes or no question: SigLIP, 2303.15343). Stop with Ctrl-C at any
time: the same command goes on from there. Copy judge.json and model.safetensors of the
output into dreamfusion_jax/weights/judge/ to ship them.
"""

import tyro

from dreamfusion_jax.evaluation.judge import Judge
from dreamfusion_jax.evaluation.judge_data import JudgeTraining
from dreamfusion_jax.evaluation.judge_exam import (
    describe,
    examine,
    open_bank,
    passes,
    rank_captions,
)
from dreamfusion_jax.evaluation.judge_training import train
from experiments.command_line import as_program, one_line_errors, parsed, say, say_devices


def main(argv: list[str] | None = None) -> None:
    """Trains and examines from the command line."""
    with one_line_errors():
        training = parsed(lambda: tyro.cli(JudgeTraining, args=argv, description=__doc__))
        if min(training.steps, training.batch_size, training.report_every) < 1:
            raise ValueError("--steps, --batch-size and --report-every must be at least 1")
        say_devices()
        state, judge = train(training, say), Judge(training.judge)
        unseen = open_bank(training, unseen=True)
        found = examine(judge, state.ema, unseen)
        print(describe(found))
        ranking, known = None, training.judge
        if known.meeting:
            ranking = rank_captions(judge, state.ema, unseen)
            number = f"{len(known.categories)} x {len(known.colours)}"
            print(f"right caption first of {number}: {ranking:.1%}")
        print(f"good enough: {passes(found, ranking)}; done: {training.output}")


if __name__ == "__main__":
    as_program(main)
