"""The settings of a service whose database, topics and group are one test's own."""

from ledger_worker.config import Settings


def settings_of(database_url: str, kafka_bootstrap: str, topic_prefix: str) -> Settings:
    """All that is named in Kafka begins with the prefix; none of it is made yet."""
    return Settings(
        database_url=database_url,
        kafka_bootstrap=kafka_bootstrap,
        consumer_group=f"{topic_prefix}group",
        topic_purchases=f"{topic_prefix}purchases",
        topic_subscriptions=f"{topic_prefix}subscriptions",
        topic_usage=f"{topic_prefix}usage",
        topic_changes=f"{topic_prefix}changes",
        topic_state=f"{topic_prefix}state",
        topic_dead_letters=f"{topic_prefix}dead-letters",
    )
