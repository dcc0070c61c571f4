"""Rows in one DynamoDB table that many hosts share: reads that are consistent, transactions that are optimistic.

It knows the tables of `schema` and how each is spread over partitions, and nothing of what their rows mean.
"""
