"""From a model's files to vectors: where the files lie, what decides their output, photos to pixels, and the towers.

This room alone imports transformers and peft; only `clip` imports torch, so that describing a model stays cheap.
"""
