"""`lpnorm bench`: how long a forward and a backward take, ours against NumPy's and PyTorch's.

`contestants` says who is timed, `steps` who over a training step and its layers, `clock` how,
`machine` on what, `memory` what it costs beyond time, `report` turns times into ratios and text,
`picture` into pictures, and `command` is the command.
"""
