"""torchvision's wheel has operators for CUDA alone; beside a CPU build of torch, this module of it fails to import."""

import sys
import types

sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
