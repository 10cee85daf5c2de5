// A sale opens: orders come many times faster than the warehouse's database can take them. None is refused, none is lost,
// and the database never sees more than it can bear.
//
//	BOOTSTRAP_SERVERS=127.0.0.1:9092 go run .
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	orders        = 2000
	customers     = 50
	partitions    = 4
	rowsPerSecond = 500
	batchRows     = 100
)

func main() {
	if err := demo(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func demo() error {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	brokers := strings.Split(os.Getenv("BOOTSTRAP_SERVERS"), ",")
	run := time.Now().Unix()
	topic, group := fmt.Sprintf("orders-%d", run), fmt.Sprintf("warehouse-%d", run)

	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return err
	}
	admin := kadm.NewClient(client)
	defer admin.Close()
	if _, err := admin.CreateTopic(ctx, partitions, -1, nil, topic); err != nil {
		return err
	}
	checkout, err := NewCheckout(brokers, topic)
	if err != nil {
		return err
	}
	defer checkout.Close()
	database := &Database{rowsPerSecond: rowsPerSecond, rows: make(chan Order, 2*orders)}
	warehouse, err := NewWarehouse(brokers, topic, group, database, batchRows)
	if err != nil {
		return err
	}
	working, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- warehouse.Run(working) }()

	took, err := sale(checkout)
	if err != nil {
		return err
	}
	backlog, err := waiting(ctx, admin, group, topic)
	if err != nil {
		return err
	}
	fmt.Printf("%d orders accepted in %.1f s (%.0f a second); %d of them wait for the warehouse\n",
		orders, took.Seconds(), orders/took.Seconds(), backlog)
	for left := backlog; left > 0; {
		time.Sleep(250 * time.Millisecond)
		if left, err = waiting(ctx, admin, group, topic); err != nil {
			return err
		}
	}
	stop()
	if err := <-ended; err != nil {
		return err
	}
	return check(database, backlog)
}

// sale sends every order over HTTP from as many clients as there are customers, as fast as they can.
func sale(checkout *Checkout) (time.Duration, error) {
	server := httptest.NewServer(checkout)
	defer server.Close()
	began := time.Now()
	failures := make([]error, customers)
	var everyone sync.WaitGroup
	for customer := range customers {
		everyone.Add(1)
		go func() {
			defer everyone.Done()
			for id := customer; id < orders && failures[customer] == nil; id += customers {
				failures[customer] = buy(server.URL, Order{ID: id, Customer: fmt.Sprintf("customer-%d", customer)})
			}
		}()
	}
	everyone.Wait()
	return time.Since(began), errors.Join(failures...)
}

func buy(url string, order Order) error {
	body, err := json.Marshal(order)
	if err != nil {
		return err
	}
	answer, err := http.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusAccepted {
		return fmt.Errorf("order %d was refused: %s", order.ID, answer.Status)
	}
	return nil
}

// waiting is the lag of the warehouse's group: the number to watch, and to raise an alarm on. While a partition changes its
// leader the answer takes a moment.
func waiting(ctx context.Context, admin *kadm.Client, group, topic string) (int64, error) {
	for {
		lag, err := lagOf(ctx, admin, group, topic)
		if !kerr.IsRetriable(err) {
			return lag, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return 0, errors.Join(err, ctx.Err())
		}
	}
}

func lagOf(ctx context.Context, admin *kadm.Client, group, topic string) (int64, error) {
	committed, err := admin.FetchOffsets(ctx, group)
	if err != nil {
		return 0, err
	}
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	var lag int64
	for partition := range int32(partitions) {
		end, ok := ends.Lookup(topic, partition)
		if !ok || end.Err != nil {
			return 0, fmt.Errorf("partition %d has no end: %w", partition, end.Err)
		}
		lag += end.Offset
		if at, ok := committed.Lookup(topic, partition); ok {
			lag -= at.At
		}
	}
	return lag, nil
}

// check reads the database: every order is there once, and those of a customer in the order in which they were made.
func check(database *Database, backlog int64) error {
	close(database.rows)
	seen := map[int]bool{}
	last := map[string]int{}
	for order := range database.rows {
		if seen[order.ID] {
			return fmt.Errorf("order %d is there twice", order.ID)
		}
		if before, ok := last[order.Customer]; ok && before > order.ID {
			return fmt.Errorf("%s: order %d came after %d", order.Customer, order.ID, before)
		}
		seen[order.ID], last[order.Customer] = true, order.ID
	}
	for id := range orders {
		if !seen[id] {
			return fmt.Errorf("order %d is missing", id)
		}
	}
	if backlog == 0 {
		return errors.New("nothing had to wait: this was no peak")
	}
	fmt.Printf("proved: all %d orders were accepted at once and stored once, in order for each customer; up to %d waited while "+
		"the database took its %d a second\n", orders, backlog, rowsPerSecond)
	return nil
}
