"""`attnbench bench`: what a training step costs on this machine, beside a step of the paper's released code."""

from attnbench.bench.measure import bench as bench
from attnbench.bench.measure import plan_bench as plan_bench
from attnbench.bench.report import rows_to_text as rows_to_text
