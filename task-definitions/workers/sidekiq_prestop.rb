# Sidekiq beside ecs-prestop: a lease for each job, and no other job once ECS wants this worker gone.
#
#     Sidekiq.configure_server { |config| config.server_middleware { |chain| chain.add SidekiqPrestop } }
#
# It needs nothing beyond Sidekiq itself. `PRESTOP_PROTECT=true` and
# `PRESTOP_DRAIN=signal TERM worker` belong to it.

require "net/http"
require "sidekiq"

class SidekiqPrestop
  SIDECAR = URI(ENV.fetch("PRESTOP_URL", "http://127.0.0.1:9911"))

  # Longer than any job: what a lost worker keeps protected at most.
  LEASE = "2h"

  # Held by the first job that quiets this process. Each of them would do it, and of two signals in the same moment
  # Sidekiq 6 dies, with the jobs in hand: from Ruby 3.1 on its loop takes the second one for an answer that it is not.
  QUIETED = Mutex.new

  def call(_worker, job, queue)
    lease = "/protect/#{job["jid"]}"
    status = ask(Net::HTTP::Put.new("#{lease}?for=#{LEASE}"))
    if status == 200
      begin
        yield
      ensure
        ask(Net::HTTP::Delete.new(lease))
      end
    else
      # 409: this worker is to go, so it takes no other job: TSTP, which Sidekiq cannot take back, and a TERM that
      # comes with ECS's. 502, 504: ECS does not agree. Either way somebody else does the job.
      Process.kill("TSTP", Process.pid) if status == 409 && QUIETED.try_lock
      sleep 2
      Sidekiq::Client.push(job.merge("queue" => queue))
    end
  end

  private

  # No status where nobody answers. The sidecar answers within 22 s, however ECS does.
  def ask(request)
    http = Net::HTTP.new(SIDECAR.host, SIDECAR.port)
    http.read_timeout = 25
    http.request(request).code.to_i
  rescue SystemCallError, IOError, Timeout::Error
    nil
  end
end
