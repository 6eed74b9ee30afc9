"""Small scikit-learn estimators as skl2onnx exports them.

    python -m venv sk && sk/bin/pip install scikit-learn==1.9.1 skl2onnx==1.20.0
    sk/bin/python models/frameworks/from_sklearn.py

Writes `sklearn_*.onnx` beside this script; fitted on seeded made-up data.
"""

from __future__ import annotations

from pathlib import Path

from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.base import BaseEstimator
from sklearn.datasets import make_classification, make_regression
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

HERE = Path(__file__).parent
MODELS: dict[str, BaseEstimator] = {
    "mlp_classifier": MLPClassifier((32, 24), random_state=0, max_iter=50),
    "mlp_regressor": MLPRegressor(hidden_layer_sizes=(48,), activation="tanh", random_state=0, max_iter=50),
    "mlp_pipeline": make_pipeline(StandardScaler(), PCA(8), MLPClassifier((16,), random_state=0, max_iter=50)),
    "logistic_regression": LogisticRegression(),
    "random_forest": RandomForestClassifier(5, max_depth=4, random_state=0),
    "gradient_boosting": GradientBoostingRegressor(n_estimators=5, random_state=0),
    "svc": SVC(probability=False, random_state=0),
}


def main() -> None:
    """Write every model."""
    classes = make_classification(200, 12, n_informative=8, n_classes=3, random_state=0)
    numbers = make_regression(200, 12, random_state=0)
    for name, estimator in MODELS.items():
        x, y = numbers if "regressor" in name or "boosting" in name else classes
        estimator.fit(x.astype("float32"), y)
        options = {} if "Regressor" in type(estimator).__name__ else {"zipmap": False}
        model = to_onnx(
            estimator,
            initial_types=[("x", FloatTensorType([None, 12]))],
            options={id(estimator): options} if options else None,
            target_opset=17,
        )
        (HERE / f"sklearn_{name}.onnx").write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main()
