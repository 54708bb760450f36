"""The deploy bundle: a compiled network as a self-contained C library, and a program that runs it.

    make_bundle(compiled, Path("folder"), name="net", reference=outputs, ...)

`c/` is the part written by hand; in it every name starts with "nn_", which becomes the model's name.
`tables.py` writes the network down for it, `weights.py` the constants, `digest.py` what a board checks
itself against, `documents.py` what people read.
"""
