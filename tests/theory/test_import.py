"""What `import theory` brings in."""

import subprocess
import sys


def test_import_is_light_and_derivations_wait():
    code = (
        "import sys, theory\n"
        "print(sorted({'torch', 'scipy.stats', 'sim', 'hessian'} & set(sys.modules)))\n"
        "print(any('steps' in vars(d) for d in theory.DERIVATIONS.values()))\n"
        "theory.expected_abs_mean([1.0, 2.0, -4.0, 0.3], 5)\n"
        "theory.rule_estimate('mean', range(1, 99), range(2, 100))\n"
        "print('scipy.stats' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["[]", "False", "False"]
