package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Order is what a customer buys.
type Order struct {
	ID       int    `json:"id"`
	Customer string `json:"customer"`
}

// Checkout takes orders over HTTP as fast as they come. It needs the topic and nothing else: not the warehouse, not its database.
type Checkout struct {
	client *kgo.Client
	topic  string
}

// NewCheckout connects the producer. franz-go's producer is idempotent with acknowledgements from all in-sync replicas
// unless it is told otherwise, which is what an order deserves.
func NewCheckout(brokers []string, topic string) (*Checkout, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ProducerLinger(2*time.Millisecond),
		kgo.RecordDeliveryTimeout(30*time.Second))
	return &Checkout{client: client, topic: topic}, err
}

// ServeHTTP answers "202 Accepted" when the order is safe, and 503 when it is not: the customer is never told a lie.
func (c *Checkout) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var order Order
	if err := json.NewDecoder(r.Body).Decode(&order); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := c.accept(r.Context(), order); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

func (c *Checkout) accept(ctx context.Context, order Order) error {
	value, err := json.Marshal(order)
	if err != nil {
		return err
	}
	// Orders of a customer have one key, so they are handled in the order in which they came.
	record := &kgo.Record{Topic: c.topic, Key: []byte(order.Customer), Value: value}
	if err := c.client.ProduceSync(ctx, record).FirstErr(); err != nil {
		return fmt.Errorf("order %d: %w", order.ID, err)
	}
	return nil
}

// Close sends what is still buffered and disconnects.
func (c *Checkout) Close() { c.client.Close() }
