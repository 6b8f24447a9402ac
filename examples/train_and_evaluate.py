"""Train a detector on a packed category, evaluate it, and score a batch.

python examples/train_and_evaluate.py mvad-data/shards/mvtec3d/gear
"""

import sys

import mvad

folder = sys.argv[1]
run = mvad.train(folder, "padim", "runs/example-padim", input__size=64)
results = run.evaluate(folder)
bounds = results.figures.intervals["s_auroc"]
print(f"{run}: S-AUROC {results.figures['s_auroc']}, 95 % {bounds}")

test = mvad.ShardSet(folder, "test")
found = run.predict(test.batch(range(4)))
for key, score in zip(test.keys[:4], found.sample_scores.tolist(), strict=True):
    print(f"{key}: {score:.3f}")
