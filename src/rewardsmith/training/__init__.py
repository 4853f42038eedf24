"""Training: from pairs to a reward head. Import from the modules; nothing heavy is imported here."""

from rewardsmith.model.quiet import hush_optional_kernel

hush_optional_kernel()  # before peft and transformers' trainer are imported, which import bitsandbytes
