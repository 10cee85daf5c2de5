package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Database is the slow part, which must never be asked more than it can bear: here an insert of a batch, no more than
// `rowsPerSecond` rows a second.
type Database struct {
	rowsPerSecond int
	rows          chan Order
}

// Insert takes as long as the database needs for the batch.
func (d *Database) Insert(ctx context.Context, batch []Order) error {
	select {
	case <-time.After(time.Second * time.Duration(len(batch)) / time.Duration(d.rowsPerSecond)):
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, order := range batch {
		d.rows <- order
	}
	return nil
}

// Warehouse works off the orders at the database's pace, however fast they come.
type Warehouse struct {
	client    *kgo.Client
	database  *Database
	batchRows int
}

// NewWarehouse joins the warehouse's consumer group.
func NewWarehouse(brokers []string, topic, group string, database *Database, batchRows int) (*Warehouse, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.ConsumeTopics(topic),
		kgo.ConsumerGroup(group),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		// Offsets are committed when the rows are in the database, see Run.
		kgo.DisableAutoCommit(),
		// No rebalance between taking a batch and committing it.
		kgo.BlockRebalanceOnPoll(),
		// What waits, waits on the brokers' disks and not in this process.
		kgo.FetchMaxBytes(1<<20),
	)
	return &Warehouse{client: client, database: database, batchRows: batchRows}, err
}

// Run takes a batch, inserts it, commits it, and takes the next one until ctx ends. A crash between insert and commit brings
// the batch again: the order's id is the row's primary key.
func (w *Warehouse) Run(ctx context.Context) error {
	defer w.client.CloseAllowingRebalance()
	for {
		fetches := w.client.PollRecords(ctx, w.batchRows)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return err
		}
		if err := w.store(ctx, fetches); err != nil {
			return err
		}
		w.client.AllowRebalance()
	}
}

func (w *Warehouse) store(ctx context.Context, fetches kgo.Fetches) error {
	var batch []Order
	var failed error
	fetches.EachRecord(func(record *kgo.Record) {
		var order Order
		failed = errors.Join(failed, json.Unmarshal(record.Value, &order))
		batch = append(batch, order)
	})
	if failed != nil {
		return failed
	}
	if err := w.database.Insert(ctx, batch); err != nil {
		return err
	}
	return w.client.CommitRecords(ctx, fetches.Records()...)
}
