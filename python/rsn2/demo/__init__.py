"""``rsn2 demo``: four real tasks of different kinds in one network, compared with a network for each.

The data come with scikit-learn, nothing is downloaded. The first two tasks are trained together, then the others one
after another. What is claimed of finished tasks is checked while it runs, and the demo fails when it does not hold.
"""

from rsn2.demo.run import run_demo

__all__ = ["run_demo"]
