# Jobs that know nothing of being stopped, for Sidekiq; `ruby sidekiq_jobs.rb enqueue FROM TO` asks for some.
require 'sidekiq'

broker = { url: ENV.fetch('BROKER', 'redis://10.0.2.1:6379/0') }
Sidekiq.configure_server { |config| config.redis = broker }
Sidekiq.configure_client { |config| config.redis = broker }

class Work
  include Sidekiq::Worker

  def perform(number, seconds)
    sleep seconds
    Sidekiq.redis { |redis| redis.sadd('done', number) }
  end
end

if ARGV[0] == 'enqueue'
  (ARGV[1].to_i...ARGV[2].to_i).each { |number| Work.perform_async(number, Random.new(number).rand(0.2..5.0)) }
end
