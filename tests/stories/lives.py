"""All stories: one for each fact, and for each way in which facts meet. Each theme has a file."""

from tests.stories import orders, subscriptions, usage

STORIES = (*orders.STORIES, *subscriptions.STORIES, *usage.STORIES)
