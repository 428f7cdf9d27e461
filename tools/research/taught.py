"""Called by taught.ts: scikit-learn's LogisticRegression on the features in a folder: as it is, C = 1, and with C chosen in two ways."""
import json
import sys
import warnings
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

warnings.filterwarnings("ignore")  # of iterations that end early, and of renamed attributes
folder = Path(sys.argv[1])
classes = json.loads((folder / "classes.json").read_text())


def features(name: str) -> np.ndarray:
    return np.fromfile(folder / f"{name}.f32", dtype=np.float32).reshape(-1, classes["dim"]).astype(float)


train, val = features("train"), features("val")
folds = min(5, np.bincount(classes["train"]).min())
plain = LogisticRegression(max_iter=2000).fit(train, classes["train"])
found = [f"{100 * (plain.predict(val) == classes['val']).mean():.1f} % (C = 1)"]
for scoring in ("accuracy", "neg_log_loss"):
    model = LogisticRegressionCV(Cs=np.logspace(-4, 1, 11), cv=folds, scoring=scoring, max_iter=2000)
    model.fit(train, classes["train"])
    found.append(f"{100 * (model.predict(val) == classes['val']).mean():.1f} % (C for {scoring})")
print(f"scikit-learn val {', '.join(found)}")
