// franz-go copies a topic in transactions: transactions-franz BOOTSTRAP SOURCE TARGET GROUP COUNT.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const batch = 500

func main() {
	brokers, source, target, group := strings.Split(os.Args[1], ","), os.Args[2], os.Args[3], os.Args[4]
	count, _ := strconv.Atoi(os.Args[5])
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Second)
	defer cancel()
	if err := errors.Join(copyTopic(ctx, brokers, source, target, group, count), checkFencing(ctx, brokers, target, group)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// copyTopic uses the session that joins a group's offsets to a producer's transactions. It aborts every third one.
func copyTopic(ctx context.Context, brokers []string, source, target, group string, count int) error {
	session, err := kgo.NewGroupTransactSession(
		kgo.SeedBrokers(brokers...),
		kgo.TransactionalID(group+"-copier"),
		kgo.TransactionTimeout(10*time.Second),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(source),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.RequireStableFetchOffsets(),
		kgo.FetchMaxWait(500*time.Millisecond),
	)
	if err != nil {
		return err
	}
	defer session.Close()
	for copied, transactions := 0, 0; copied < count; {
		fetches := session.PollRecords(ctx, batch)
		if err := fetches.Err0(); err != nil {
			return err
		}
		transactions++
		if err := session.Begin(); err != nil {
			return err
		}
		for _, record := range fetches.Records() {
			session.Produce(ctx, &kgo.Record{Topic: target, Key: record.Key, Value: record.Value}, nil)
		}
		if err := session.Client().Flush(ctx); err != nil {
			return err
		}
		committed, err := session.End(ctx, kgo.TransactionEndTry(transactions%3 != 0))
		if err != nil {
			return err
		}
		if committed {
			copied += fetches.NumRecords()
		}
	}
	return nil
}

// checkFencing has a second producer take the transactional id of a first one, which must hear of it.
func checkFencing(ctx context.Context, brokers []string, target, group string) error {
	producer := func() (*kgo.Client, error) {
		return kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.TransactionalID(group+"-fenced"), kgo.DefaultProduceTopic(target),
			kgo.TransactionTimeout(10*time.Second))
	}
	produce := func(client *kgo.Client, end kgo.TransactionEndTry) error {
		if err := client.BeginTransaction(); err != nil {
			return err
		}
		if err := client.ProduceSync(ctx, kgo.StringRecord("never seen")).FirstErr(); err != nil {
			return err
		}
		return client.EndTransaction(ctx, end)
	}
	first, err := producer()
	if err != nil {
		return err
	}
	defer first.Close()
	if err := produce(first, kgo.TryAbort); err != nil {
		return err
	}
	second, err := producer()
	if err != nil {
		return err
	}
	defer second.Close()
	if err := produce(second, kgo.TryAbort); err != nil {
		return err
	}
	err = produce(first, kgo.TryCommit)
	if !errors.Is(err, kerr.ProducerFenced) && !errors.Is(err, kerr.InvalidProducerEpoch) && !errors.Is(err, kerr.InvalidProducerIDMapping) {
		return fmt.Errorf("the first producer was not fenced: %w", err)
	}
	return nil
}
