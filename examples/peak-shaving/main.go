// A sale opens at midnight, when the warehouse sleeps: orders come many times faster than its database can take them. None is
// refused, none is lost, and the database, when it works them off in the morning, never sees more than it can bear.
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
	took, err := sale(checkout)
	if err != nil {
		return err
	}
	backlog, err := waiting(ctx, admin, group, topic)
	if err != nil {
		return err
	}
	if backlog != orders {
		return fmt.Errorf("%d orders wait for the warehouse instead of %d", backlog, orders)
	}
	fmt.Printf("%d orders accepted in %.1f s (%.0f a second); %d of them wait for the warehouse\n",
		orders, took.Seconds(), orders/took.Seconds(), backlog)

	database := &Database{rowsPerSecond: rowsPerSecond, rows: make(chan Order, 2*orders)}
	warehouse, err := NewWarehouse(brokers, topic, group, database, batchRows)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := workOff(ctx, warehouse, func() (int64, error) { return waiting(ctx, admin, group, topic) }); err != nil {
		return err
	}
	return check(database, time.Since(began))
}

// workOff lets the warehouse work until nothing waits for it.
func workOff(ctx context.Context, warehouse *Warehouse, waiting func() (int64, error)) error {
	working, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- warehouse.Run(working) }()
	for left := int64(orders); left > 0; {
		select {
		case err := <-ended:
			return fmt.Errorf("the warehouse ended with %d orders waiting: %w", left, err)
		case <-time.After(250 * time.Millisecond):
		}
		var err error
		if left, err = waiting(); err != nil {
			return err
		}
	}
	stop()
	return <-ended
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

// check reads the database: every order is there once, and those of a customer in the order in which they were made; none came
// faster than the database can take it.
func check(database *Database, took time.Duration) error {
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
	if rate := orders / took.Seconds(); rate > rowsPerSecond {
		return fmt.Errorf("the database was given %.0f rows a second instead of %d", rate, rowsPerSecond)
	}
	fmt.Printf("proved: all %d orders were accepted while the warehouse slept and stored once, in order for each customer; the "+
		"database took them in %.0f s at no more than %d a second\n", orders, took.Seconds(), rowsPerSecond)
	return nil
}
