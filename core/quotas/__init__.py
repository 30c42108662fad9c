"""Who may use what of a tenant's quotas: pure decisions from what hosts say of themselves."""

from hawker.core.quotas.accounts import Accounts, Spent
from hawker.core.quotas.shares import divide

__all__ = ["Accounts", "Spent", "divide"]
