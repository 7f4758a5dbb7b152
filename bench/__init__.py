"""Speed of the task layers against the best that a user can get without them. `python -m bench.run --help`.

``ops/`` mirrors ``rsn2_kernels.ops``: the points, with their goals. ``registry`` says what a point is, ``proof`` what
a right result is, ``measure`` makes a line of a point. ``alternatives`` names what is compared, from ``baselines``
(PyTorch, onnxruntime) and ``peers`` (SparseProp, DeepSparse, where installed). ``run`` prints and writes the lines,
``compare`` and ``plot`` read them; ``e2e`` and ``epoch`` time whole epochs in whole processes, ``memory`` counts bytes.
"""
