"""The contract as a test, for the test suite of a package with its own module. Needs pytest.

from attnbench.testing import module_test
test_my_attention = module_test("my_package:MyAttention", channels=32)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from attnbench.contract.checking import examine
from attnbench.contract.promises import CHECKS
from attnbench.contract.subject import Constructor, find_subject
from attnbench.errors import UserError


def module_test(
    module: str | Constructor,
    channels: int = 64,
    *,
    size: int = 8,
    device: str | None = "cpu",
    options: Mapping[str, Any] | None = None,
) -> Callable[..., None]:
    """A test function with one case per check of `attnbench.contract`; notes pass.

    Args:
        module, channels, size, device, options: see `attnbench.check`.
    """

    @pytest.mark.parametrize("check", list(CHECKS))
    def test(check: str) -> None:
        try:
            finding = examine(check, find_subject(module, channels, size=size, device=device, options=options))
        except UserError as error:
            pytest.fail(str(error), pytrace=False)
        if finding.status == "failed":
            pytest.fail(finding.detail, pytrace=False)

    return test
