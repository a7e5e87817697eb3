"""The one training loop, with its configuration, checkpoints and logs."""

from sparsecode.training.checkpoint import RunFolder as RunFolder
from sparsecode.training.config import TrainConfig as TrainConfig
from sparsecode.training.dead_latents import DeadLatents as DeadLatents
from sparsecode.training.loop import TrainingRun as TrainingRun
from sparsecode.training.loop import new_state as new_state
from sparsecode.training.loop import start_training as start_training
from sparsecode.training.loop import take_step as take_step
from sparsecode.training.loop import train as train
from sparsecode.training.one_pass import one_pass as one_pass
from sparsecode.training.schedules import default_learning_rate as default_learning_rate
from sparsecode.training.schedules import learning_rate_factor as learning_rate_factor
from sparsecode.training.state import TrainState as TrainState
from sparsecode.training.task import AbstractTask as AbstractTask
from sparsecode.training.task import RowSource as RowSource
from sparsecode.training.task import StepLosses as StepLosses
