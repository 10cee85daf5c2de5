// The shop: it says what happened to an order and does not know who listens.
'use strict'

const { CompressionTypes, Partitioners } = require('kafkajs')

class Shop {
  constructor(kafka, topic) {
    this.topic = topic
    // An event that is sent again after a lost answer is written once, and in its place.
    this.producer = kafka.producer({
      idempotent: true,
      maxInFlightRequests: 1,
      createPartitioner: Partitioners.DefaultPartitioner,
    })
  }

  open() {
    return this.producer.connect()
  }

  // Events of an order have its id as key: whoever listens hears them in the order in which they happened.
  tell(order, what, details = {}) {
    return { key: order, value: JSON.stringify({ order, what, ...details }) }
  }

  async publish(events) {
    await this.producer.send({ topic: this.topic, acks: -1, compression: CompressionTypes.GZIP, messages: events })
  }

  close() {
    return this.producer.disconnect()
  }
}

module.exports = { Shop }
