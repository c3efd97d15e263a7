"""Trains a tiny model from Python, looks at what it has recorded, evaluates the model and converts it.

python train_and_evaluate.py [OUTPUT_DIR]
"""

import sys
from pathlib import Path

from aspo_megatron.api import RunError, UserError, convert, evaluate, read_metrics, train

TINY = Path(__file__).resolve().parent.parent / "tiny"
OUTPUT = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/python")

try:
    result = train(
        TINY / "run.yaml",
        [
            f"output_dir={OUTPUT}",
            f"model.path={TINY / 'model'}",
            "reward.kind=spelling_reward:share_of_letters",  # spelling_reward.py, beside this file
            "loss.name=soft_loss:SoftRatio",  # soft_loss.py
            "loss.sharpness=2.0",
            "parallel.tp=1",
            "warmup.updates=60",
            "train.steps=6",
            "eval.max_problems=50",
        ],
    )
except (UserError, RunError) as error:
    sys.exit(f"error: {error}")

if result.summary is None:
    sys.exit("stopped; the same command resumes it")
rewards = [row["reward/mean"] for row in read_metrics(OUTPUT) if "reward/mean" in row]
print(f"mean reward:       {rewards[0]:.3f} at step 1, {rewards[-1]:.3f} at step {result.summary.steps}")

scores = evaluate(result.model, config=OUTPUT / "config.yaml", progress=False)
print(f"evaluated again:   {scores.sets['held-out'].average}")

checkpoint = OUTPUT.parent / f"{OUTPUT.name}-megatron"
if not checkpoint.exists():
    convert(result.model, checkpoint, tp=2, verify=True)
print(f"for two tp ranks:  {checkpoint}")
