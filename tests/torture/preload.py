"""What the server of processes imports, once for all commands: nothing that starts a thread."""

import pandas
import peft
import sympy
import torch
import torch._dynamo
import transformers.models.clip.modeling_clip

import clipstore.cli
import clipstore.encoders.lora
import clipstore.pipeline.embed.run
import clipstore.pipeline.evaluate.run
import clipstore.pipeline.ingest.run
import clipstore.pipeline.train.run
import clipstore.ranking
import clipstore.training

MODULES = (clipstore, pandas, peft, sympy, torch, transformers)
