"""Who may use what of a tenant's quotas: pure decisions from what hosts say of themselves."""

from hawker.core.quotas.accounts import Accounts
from hawker.core.quotas.shares import divide
from hawker.core.quotas.spent import Spent

__all__ = ["Accounts", "Spent", "divide"]
