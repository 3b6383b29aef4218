"""The public names and where they are defined."""

from understudy.backends import build as build
from understudy.backends import score as score
from understudy.certificate import Certificate as Certificate
from understudy.early_exit.network import ExitNetwork as ExitNetwork
from understudy.early_exit.network import attach as attach
from understudy.errors import UnderstudyError as UnderstudyError
from understudy.estimators.cascade_classifier import CascadeClassifier as CascadeClassifier
from understudy.frontier import Frontier as Frontier
from understudy.nn.cascade import Cascade as Cascade
from understudy.nn.preprocess import Preprocess as Preprocess
from understudy.nn.stage import Stage as Stage
from understudy.outcome import Outcome as Outcome
from understudy.outcome import evaluate as evaluate
from understudy.policy import Policy as Policy
from understudy.result import Result as Result
from understudy.runtime.executor import Executor as Executor
from understudy.runtime.protocol import Answers as Answers
from understudy.scores import ScoreTable as ScoreTable
from understudy.searching.search import search as search
from understudy.searching.verify import verify as verify
from understudy.store import load_table as load_table
from understudy.store import save_table as save_table
from understudy.zoo.saved_cascades import load_cascade as load_cascade
from understudy.zoo.saved_cascades import save_cascade as save_cascade

__all__: list[str]
__version__: str
