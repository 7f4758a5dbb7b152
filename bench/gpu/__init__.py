"""What needs a GPU: correctness, gates and speed on it, each also dry on a CPU. `bench/gpu_suite.sh` runs it all.

Nothing here imports ``rsn2``, so that torch, Triton and pytest are enough. ``device`` is the GPU or a stand-in for it,
``lines`` the results on disk, which make every part resumable. ``problems`` makes inputs, ``check`` compares results
with float64 (``values``, ``odd_inputs``) and tests what the operators promise (``promises``). ``bench`` and ``gates``
time ``points``, which come from ``linear``, ``mixed``, ``conv``, ``ceilings`` and ``models``, beside ``baselines``, and
judge them by ``goals``.
"""
